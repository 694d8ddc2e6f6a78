CLAIMS = []
def draw(tables, folder): return []
