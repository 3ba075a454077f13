"""The dashboard: reads what searches store and shows it; it writes nothing and runs no model."""
