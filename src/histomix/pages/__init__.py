"""What the pages of report, benchmark and sharing have in common."""
