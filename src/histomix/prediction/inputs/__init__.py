"""What is to be predicted: which slides a command names, what a store says of a remote one, and how one is opened."""
