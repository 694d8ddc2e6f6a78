from pathlib import Path
CLAIMS = []
def draw(tables, folder):
    return []
