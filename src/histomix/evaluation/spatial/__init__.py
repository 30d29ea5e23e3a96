"""Whether predictions keep the order of the tissue: autocorrelation, co-localisation and their nulls."""
