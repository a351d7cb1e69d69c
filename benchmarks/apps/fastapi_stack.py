"""The same with what is usually put around it, each as its own documentation says.

A limit for each client from slowapi, metrics from prometheus-fastapi-instrumentator, traces of one request in a hundred
from OpenTelemetry. Its spans are put into batches and thrown away: what a collector would cost is left out.
"""

from fastapi import FastAPI, Request
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_fastapi_instrumentator import Instrumentator
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address


class Nowhere(SpanExporter):
    def export(self, spans):
        return SpanExportResult.SUCCESS


provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)))
provider.add_span_processor(BatchSpanProcessor(Nowhere()))
trace.set_tracer_provider(provider)

limiter = Limiter(key_func=get_remote_address)
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)


@app.get("/")
@limiter.limit("1000000/second")
async def root(request: Request):
    return {"message": "Hello World"}


@app.get("/limited")
@limiter.limit("2/minute")
async def limited(request: Request):
    return {"message": "Hello World"}


Instrumentator().instrument(app).expose(app)
FastAPIInstrumentor.instrument_app(app)
