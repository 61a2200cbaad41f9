#!/bin/sh
# Python's standard library: `socket.recv_fds(..., flags)` does not use its flags
#
# Versions: CPython 3.11.7, 3.12.1 and 3.13.0 (module socket), on Linux. PYTHON names the interpreter; python3 otherwise.
# Behaviour: `recv_fds` takes `flags` and calls `recvmsg` without them. So MSG_CMSG_CLOEXEC has no effect, and, against
#   PEP 446, the descriptors that it returns are inherited by every program that is started later. `recvmsg` with the
#   same flag gives descriptors that are not. MSG_PEEK has no effect either: the message is consumed.
# Output seen: "inherited: recv_fds True, recvmsg False; left after MSG_PEEK: 0 of 6 bytes", by all three.
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/flags.py" <<'PY'
import os
import socket
import sys

here, there = socket.socketpair()
reader, writer = os.pipe()

socket.send_fds(here, [b"x"], [reader])
_, fds, _, _ = socket.recv_fds(there, 1, 1, socket.MSG_CMSG_CLOEXEC)
by_recv_fds = os.get_inheritable(fds[0])

socket.send_fds(here, [b"x"], [reader])
_, ancillary, _, _ = there.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
by_recvmsg = os.get_inheritable(int.from_bytes(ancillary[0][2][:4], sys.byteorder))

here.send(b"peeked")
socket.recv_fds(there, 6, 1, socket.MSG_PEEK)
there.setblocking(False)
try:
    left = len(there.recv(6))
except BlockingIOError:
    left = 0
print(f"inherited: recv_fds {by_recv_fds}, recvmsg {by_recvmsg}; left after MSG_PEEK: {left} of 6 bytes")
PY
seen=$("${PYTHON:-python3}" "$folder/flags.py")
echo "$("${PYTHON:-python3}" --version): $seen"
[ "$seen" = "inherited: recv_fds True, recvmsg False; left after MSG_PEEK: 0 of 6 bytes" ]
