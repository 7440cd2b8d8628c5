"""The published expected-completion policy, as written down: what the product is measured against.

Estimators, cost, queue and placement of the routing study, on their own: nothing of the product's
scheduler, predictor or signals is used, so a change there does not move the measure. Taken from
the core are values (fleet, requests, hardware), the priors that the study gives, and the rule by
which llama-server chooses a slot.

It knows what a router knows: reports some seconds old, what it sent where, first tokens, the
tokens streamed since (which the product does not count), and the figures at an answer's end.

Where it had to differ, or the text leaves it open:
- KV cache per token comes from the simulator's list of models, since reports do not carry the
  layers and heads that a router would ask an engine for; of other models it is a usual figure.
- Simulated engines have no prompt cache in main memory, so none is believed in.
- Every simulated request is content with the default context, so none asks for a larger one.
- A model that is loading with all its slots promised counts the load once, in the wait.
- Rates of a mixed interval move by the tokens of their own model, not by those of all models on the
  machine: by the sum, one that is seldom alone runs away with the errors of its neighbours.
- Nothing is learned from the time in which a model loads for a request.
- A prompt that is late is expected at once, and its answer after that.
- A node without news is out after 16 s, as in the product's fleet, not 15.
- A request whose answer was cut comes back as a new one: a client asks again.
"""
