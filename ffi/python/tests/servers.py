"""What stands in for a daemon, or before one, where a real one cannot be made to do it."""

from __future__ import annotations

import socket
import threading
import time

# In an answer: only after all of the caller's body has come.
END = object()


class Scripted:
    """A server that does as it is told: what no daemon does on demand."""

    def __init__(self, path: str, *turns) -> None:
        self.heads: list[bytes] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.run, args=(turns,), daemon=True)
        self.thread.start()

    def run(self, turns) -> None:
        for answer in turns:
            peer, _ = self.listener.accept()
            self.heads.append(came := peer.recv(65536))
            for part in answer:
                if isinstance(part, bytes):
                    peer.sendall(part)
                elif part is END:
                    while not came.endswith(b"0\r\n\r\n"):
                        came += peer.recv(65536)
                else:
                    time.sleep(part)
            peer.close()
        self.listener.close()
