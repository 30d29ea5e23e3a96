"""Cards of heads: what they say, as JSON and as text for people."""
