"""From csv and cif files to padded batches."""
