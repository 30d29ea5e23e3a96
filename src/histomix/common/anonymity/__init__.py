"""What may be said where nobody is to be named, and the pseudonyms and marks that go with it."""
