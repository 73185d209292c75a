"""What people type: ``metamon``."""
