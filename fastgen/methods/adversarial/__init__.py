"""Methods whose teacher is a discriminator."""
