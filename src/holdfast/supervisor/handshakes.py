"""The last word on handshakes: a listener that lets those under way complete and begins no new ones.

Closing a listener resets every client in its accept queue. So a final stop first keeps new SYNs away, then
accepts until the queue is empty, and only then closes.
"""

import ctypes
import socket
import struct
import sys

__all__ = ["allow_handshakes", "drop_new_handshakes"]

# asm-generic/socket.h; the socket module does not name them.
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
# Classic BPF, linux/filter.h. On a TCP socket the data begins at the TCP header, whose byte 13 holds the
# flags.
_SYN_FILTER = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # A = flags
        (0x54, 0, 0, 0x12),  # A &= SYN | ACK
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass the whole packet
    )
)


def drop_new_handshakes(sock: socket.socket) -> bool:
    """Make the kernel ignore new connections to a listening TCP socket, while handshakes under way complete
    and can be accepted. The peer's kernel tries again, after 1 s at first, so nothing is refused while the
    filter is on.

    For all copies of the socket, in every process. False when it cannot be done: not Linux, a unix socket,
    or not permitted; then nothing has changed.
    """
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    program = ctypes.create_string_buffer(_SYN_FILTER, len(_SYN_FILTER))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }; the kernel copies the program.
    header = struct.pack("HP", len(_SYN_FILTER) // struct.calcsize("HBBI"), ctypes.addressof(program))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
    except OSError:
        return False
    return True


def allow_handshakes(sock: socket.socket) -> bool:
    """Undo `drop_new_handshakes`. False when there was no filter or it cannot be taken off."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError:
        return False
    return True
