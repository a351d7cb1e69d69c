"""An app that leaves things behind: a thread that is no daemon and a child process. `/block` blocks the loop."""

import os
import subprocess
import sys
import threading
import time

threading.Thread(target=time.sleep, args=(300,), name="forgotten").start()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
WHO = f"{os.getpid()} {os.environ['HOLDFAST_GENERATION']}".encode()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = [(b"content-length", b"%d" % len(WHO))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": WHO})
