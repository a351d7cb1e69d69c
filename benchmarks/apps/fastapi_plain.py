"""FastAPI as its first page has it."""

import asyncio

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def root():
    return {"message": "Hello World"}


@app.get("/limited")
async def limited():
    return {"message": "Hello World"}


@app.get("/slow")
async def slow():
    await asyncio.sleep(10)
    return {"message": "Hello World"}
