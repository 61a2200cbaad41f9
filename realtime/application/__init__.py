"""What users write: the application, its rooms and handlers, and how they are called."""
