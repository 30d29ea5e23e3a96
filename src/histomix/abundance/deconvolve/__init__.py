"""Cell types from counts and signatures: cell2location, Poisson, least squares, and how reliable they are."""
