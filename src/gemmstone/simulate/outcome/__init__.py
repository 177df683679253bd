"""What came of a simulation: latencies and goodput, records of requests, a trace of steps, the document of it all."""
