"""What looks at networks from outside: reports, figures, areas, rankings."""
