"""What people write first: a Hugging Face pipeline behind FastAPI, each request computed by itself.

    python benchmarks/serve_plain.py MODEL PORT THREADS async|threads fp32|bf16

"async": in the event loop, one after the other. "threads": in FastAPI's pool, so that requests share the cores.
"""

from __future__ import annotations

import sys
from typing import Any


def main() -> None:
    """Serve until it is stopped."""
    folder, port, threads, style, precision = sys.argv[1:]
    import torch
    import uvicorn
    from fastapi import FastAPI
    from transformers import pipeline

    torch.set_num_threads(int(threads))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    classify = pipeline("text-classification", model=folder, device="cpu", dtype=dtype, top_k=None)
    app = FastAPI()

    def said(asked: dict[str, Any]) -> Any:
        return classify(asked["text"], truncation=True)

    async def said_alone(asked: dict[str, Any]) -> Any:
        return said(asked)

    app.post("/classify")(said_alone if style == "async" else said)
    uvicorn.run(app, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
