// A stand-in for QuPath: runs the script in args[0] with the slide in args[1] open.
class Server {
    File file
    Collection<URI> getURIs() { [file.toURI()] }
}

def tiles = []
def names = [
    getCurrentServer: { -> new Server(file: new File(args[1])) },
    getTileObjects: { -> tiles },
    removeObjects: { gone, boolean children -> tiles.removeAll(gone) },
    addObjects: { more -> tiles.addAll(more) },
    fireHierarchyUpdate: { -> },
]
new GroovyShell(new Binding(names)).evaluate(new File(args[0]))
