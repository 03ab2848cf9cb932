"""A server on this machine, for the tests of downloads."""

import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's ``files``: bytes, or a function that writes them as it likes."""

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        content = self.server.files.get(self.path.lstrip("/"))
        self.server.asked.append(self.path)
        self.send_response(404 if content is None else 200)
        self.end_headers()
        if content is not None:
            content(self.wfile) if callable(content) else self.wfile.write(content)

    def log_message(self, *args):
        pass


def serving(monkeypatch, tmp_path):
    """Yield a server whose ``files`` a test fills, and an empty ``PSO_DATA``; ``asked``: the paths it was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PSO_DATA", str(tmp_path / "root"))
    monkeypatch.delenv("PSO_SCALE", raising=False)
    monkeypatch.setattr(socketserver.BaseServer, "handle_error", lambda *a: None)  # who is hung up on says nothing
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.asked, running.daemon_threads = {}, [], True
        running.url = f"http://127.0.0.1:{running.server_port}/"
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()
