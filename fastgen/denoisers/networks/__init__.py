"""Small networks of our own and what they are made of."""
