"""The part of uvicorn that serves."""

import gradio


def run(app, host="127.0.0.1", port=8000, **named):
    gradio.serve(host, port)
