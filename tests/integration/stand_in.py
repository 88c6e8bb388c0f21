"""What stands in for an engine where only the node is looked at: a server that does as it is told.

``GET /name`` answers the host's name, ``/resolve?NAME`` the addresses of a name, ``/fetch?URL``
what another server says, ``/exit?CODE`` ends the process after a last word.  After SIGTERM it
answers for DRAIN_SECONDS more and ends with 0.
"""

import os
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DRAIN_SECONDS = float(os.environ.get("DRAIN_SECONDS", "0"))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = urlsplit(str(self.path))
        try:
            answer = getattr(self, asked.path.strip("/") or "name")(unquote(asked.query))
            self.send_response(200)
        except urllib.error.HTTPError as error:
            answer = error.read().decode()
            self.send_response(error.code)
        except OSError as error:
            answer = f"{type(error).__name__}: {error}"
            self.send_response(502)
        body = answer.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def name(self, _):
        return socket.gethostname()

    def health(self, _):
        return "ok"

    def resolve(self, name):
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        return " ".join(sorted(str(each[4][0]) for each in found))

    def fetch(self, url):
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    def api(self, path):
        """Ask the API server as any client in a cluster does."""
        request = urllib.request.Request(
            f"https://kubernetes.default.svc{path}",
            headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
        )
        trusted = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
        with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:
            return answer.read().decode()

    def exit(self, code):
        print(f"told to end with {code}", flush=True)
        threading.Timer(0.1, os._exit, [int(code)]).start()
        return "as you wish"

    def log_message(self, *_):
        pass


def drain(*_):
    def end():
        time.sleep(DRAIN_SECONDS)
        print("drained", flush=True)
        os._exit(0)

    threading.Thread(target=end).start()


def main():
    signal.signal(signal.SIGTERM, drain)
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
