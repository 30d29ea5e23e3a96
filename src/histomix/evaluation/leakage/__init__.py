"""Signs that training and test are not apart."""
