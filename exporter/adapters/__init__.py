"""A bundle as the embedding model of a framework: one file for each, imported by those who use it, and by nothing else.

    langchain.py     LangChain: Embeddings
    llama_index.py   LlamaIndex: BaseEmbedding
    haystack.py      Haystack: a component for texts and one for documents
    chroma.py        Chroma: EmbeddingFunction
    sklearn.py       scikit-learn: a transformer
    opening.py       the encoders that they use, one for each bundle

``korsbert.langchain`` and so on are the same, under the name that is installed. An adapter needs the package of its
framework; without it, importing the file is a MissingDependencyError with the command that installs it.
"""
