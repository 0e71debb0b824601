"""Reading what runs left behind, and showing it: tables in the terminal and a static page."""
