"""Trajectories as moving pictures: from extended XYZ to scenes, GIF and HTML."""
