package qupath.lib.io

// A stand-in for QuPath's reader of objects, which unpacks gzip by the file's name.
class PathIO {
    static List readObjects(java.nio.file.Path path) {
        def stream = path.toFile().newInputStream()
        if (path.toString().endsWith('.gz')) stream = new java.util.zip.GZIPInputStream(stream)
        return new groovy.json.JsonSlurper().parse(stream)['features']
    }
}
