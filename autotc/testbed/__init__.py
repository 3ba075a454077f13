"""A test-bed for searches: policies whose answers to many examples are known, so that strategies run without a model.

`autotc bench testbed` draws the policies and measures them, `autotc bench search` lets strategies search among
them. The policies are a pure function of their number and a seed, and are drawn before any strategy is looked at.
"""
