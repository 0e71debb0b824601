"""Distribution matching for students of other kinds: turned weights, several networks, small networks."""
