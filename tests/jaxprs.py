"""Looks into jaxprs."""


def find_scans(jaxpr):
    """Lengths of all scans in a jaxpr, at any depth."""
    lengths = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            lengths.append(equation.params["length"])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                lengths += find_scans(inner)
    return lengths
