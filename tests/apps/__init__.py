"""Applications and frameworks that people have, on sticky workers, through their own clients."""
