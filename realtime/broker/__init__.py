"""What the workers share: one contract (base.py), and three brokers that keep it (memory, local, Redis)."""
