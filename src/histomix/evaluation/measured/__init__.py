"""Maps against what was measured in the tissue: cells and regions."""
