"""Rooms on this worker: members, fan-out, recovery, presence."""
