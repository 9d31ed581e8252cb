"""The endpoints of the service beside chat: one module for each area, with its values of ``Endpoint`` and a class of short methods.

- ``models``: the list of models, joined with the catalogue of the package.
"""
