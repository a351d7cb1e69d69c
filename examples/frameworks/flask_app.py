"""Flask, WSGI: each request in a thread."""

import time
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request

from frameworks.stock import Stock

app = Flask(__name__)
app.config["PROPAGATE_EXCEPTIONS"] = True  # the server answers for exceptions
stock = Stock()


@app.get("/products/<sku>")
def product(sku: str) -> Response:
    return jsonify(stock.find(sku))


@app.post("/orders")
def order() -> tuple[Response, int]:
    new = request.get_json()
    return jsonify(stock.sell(new["sku"], new["quantity"])), 201


@app.get("/report")
def report() -> Response:
    seconds = request.args.get("seconds", 0.5, float)
    time.sleep(seconds)
    return jsonify(took=seconds)


@app.get("/export")
def export() -> Response:
    rows = request.args.get("rows", 10, int)

    def lines() -> Iterator[str]:
        for number in range(rows):
            yield f"{number}\n"
            time.sleep(0.1)

    return Response(lines(), mimetype="text/csv")
