//! What is asked of an object server.

/// A kind of request. Where the two dialects ask for the same it has the same name; a container is a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Call {
    /// An object, a segment too.
    Put,
    Get,
    Head,
    /// Of an object.
    Delete,
    /// Inside the server.
    Copy,
    /// What is in a bucket.
    List,
    HeadBucket,
    PutBucket,
    /// S3: multipart uploads.
    CreateUpload,
    UploadPart,
    CopyPart,
    Complete,
    Abort,
    ListParts,
    ListUploads,
    /// S3: tags.
    PutTags,
    GetTags,
    /// Swift: whoever asks for a token.
    Token,
    /// Swift: the object that stands for its segments.
    PutManifest,
    /// Swift: an object's metadata.
    Post,
    /// Swift: a container's.
    PostBucket,
    DeleteBucket,
    /// Swift: whatever is asked of an account, `/info` too.
    Account,
    /// What is not among these.
    Other,
}
