package qupath.lib.io

// A stand-in for the reader of JSON that QuPath gives to scripts.
class GsonTools {
    static GsonTools getInstance() { new GsonTools() }
    Object fromJson(String text, Class kind) { kind.cast(new groovy.json.JsonSlurper().parseText(text)) }
}
