"""The whole of coordination without servers: a seeded simulation of the broker, deciders and a fleet that fails.

What decides is the real thing (`coord.core`); what surrounds it is a model.  Every run is a
function of its seed: `coord.testing.simulation.simulate` and ``coord chaos sim``.
"""
