"""Places in the plane: polygons, the pitch of spots, and random shifts of a map on the torus."""
