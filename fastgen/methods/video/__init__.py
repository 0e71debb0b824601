"""Students of clips: causal ones that stream, and what comes before them."""
