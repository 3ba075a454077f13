"""What the command line prints: tables, lists and pages. No figure is computed here."""
