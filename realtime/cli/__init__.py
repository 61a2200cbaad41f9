"""The command `realtime`: one file per command, none of which serves anything itself."""
