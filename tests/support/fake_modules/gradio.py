"""The parts of gradio that decide where a page is: it takes its port from the call, else from the environment."""

import http.server
import os
import threading


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"<html><script>window.gradio_config = {{}};</script>pid {os.getpid()}</html>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


def serve(host, port):
    http.server.ThreadingHTTPServer((host, port), _Page).serve_forever()


class Blocks:
    def __init__(self, *words, **named):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *words):
        return False

    def queue(self, *words, **named):
        return self

    def launch(self, share=False, server_name=None, server_port=None, prevent_thread_lock=False, **named):
        host = server_name or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        first = server_port or int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
        for port in [server_port] if server_port else range(first, first + 100):
            try:
                server = http.server.ThreadingHTTPServer((host, port), _Page)
            except OSError:
                if server_port:
                    raise OSError(f"Cannot find empty port in range: {port}-{port}") from None
                continue
            thread = threading.Thread(target=server.serve_forever, daemon=prevent_thread_lock)
            thread.start()
            if not prevent_thread_lock:
                thread.join()
            return
        raise OSError("Cannot find empty port")


Interface = ChatInterface = TabbedInterface = Blocks


def Markdown(*words, **named):  # noqa: N802
    pass


Textbox = Button = Markdown


def mount_gradio_app(app, blocks, path="/", **named):
    return app
