"""From a request to a shortlist: sample, screen, relax, judge, rank, export, in one folder."""
