"""
The servers that are measured beside ours: one small file each, in the best configuration that its documentation tells.

Each runs in processes of its own, prints `port N` when it serves, and is ended by a signal. None imports ours. The
plain ones know one language, which is the floor's too: `{"join":"ROOM"}` makes a client a member, what a member sends
goes to all members of its room, and what any other client sends comes back to it.
"""
