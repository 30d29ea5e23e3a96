"""Space Ranger folders: Visium and Visium HD."""
