use std::os::unix::fs::MetadataExt;

use super::*;

/// A packet as a client sends it.
struct Ask(Vec<u8>);

impl Ask {
    fn new(kind: u8) -> Self {
        Ask([&[kind][..], &7_u32.to_be_bytes()].concat())
    }
    fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(&u32::try_from(text.as_ref().len()).unwrap().to_be_bytes());
        self.0.extend_from_slice(text.as_ref());
        self
    }
    fn path(self, path: &Path) -> Self {
        self.text(path.as_os_str().as_bytes())
    }
    fn number(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }
    fn long(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }
    /// Kind of the answer, and what comes after its id.
    fn of(self, server: &mut Server) -> (u8, Vec<u8>) {
        let answer = server.answer(&self.0).unwrap();
        assert_eq!(u32::from_be_bytes(answer[..4].try_into().unwrap()) as usize, answer.len() - 4);
        assert_eq!(answer[5..9], 7_u32.to_be_bytes());
        (answer[4], answer[9..].to_vec())
    }
    fn status(self, server: &mut Server) -> u32 {
        let (kind, rest) = self.of(server);
        assert_eq!(kind, packet::STATUS, "{rest:?}");
        u32::from_be_bytes(rest[..4].try_into().unwrap())
    }
    fn handle(self, server: &mut Server) -> Vec<u8> {
        let (kind, rest) = self.of(server);
        assert_eq!(kind, packet::HANDLE, "{}", String::from_utf8_lossy(&rest));
        rest[4..].to_vec()
    }
    fn names(self, server: &mut Server) -> Vec<String> {
        let (kind, rest) = self.of(server);
        assert_eq!(kind, packet::NAME);
        let mut packet = Packet::new(&rest);
        let names = (0..packet.number().unwrap()).map(|_| {
            let name = String::from_utf8(packet.text().unwrap().to_vec()).unwrap();
            let long = packet.text().unwrap();
            assert!(long.ends_with(name.as_bytes()));
            packet.attributes().unwrap();
            name
        });
        names.collect()
    }
}

#[test]
fn files_are_made_read_changed_listed_and_removed() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().canonicalize().unwrap();
    let mut s = Server::default();
    let at = |name: &str| dir.join(name);
    let flags = packet::FOR_READING | packet::FOR_WRITING | packet::MAKING | packet::ONLY_NEW;
    let file = Ask::new(packet::OPEN).path(&at("a")).number(flags).number(4).number(0o640).handle(&mut s);
    assert_eq!(Ask::new(packet::WRITE).text(&file).long(3).text("def").status(&mut s), packet::OK);
    assert_eq!(Ask::new(packet::WRITE).text(&file).long(0).text("abc").status(&mut s), packet::OK);
    let (kind, data) = Ask::new(packet::READ).text(&file).long(1).number(3).of(&mut s);
    assert_eq!((kind, &data[4..]), (packet::DATA, &b"bcd"[..]));
    assert_eq!(Ask::new(packet::READ).text(&file).long(6).number(3).status(&mut s), packet::EOF);
    assert_eq!(Ask::new(packet::FSETSTAT).text(&file).number(8).number(5).number(77).status(&mut s), packet::OK);
    assert_eq!(Ask::new(packet::CLOSE).text(&file).status(&mut s), packet::OK);
    assert_ne!(Ask::new(packet::CLOSE).text(&file).status(&mut s), packet::OK);
    let meta = std::fs::metadata(at("a")).unwrap();
    assert_eq!((meta.mtime(), std::fs::read(at("a")).unwrap().as_slice()), (77, &b"abcdef"[..]));
    // What is there is not replaced, unless that is asked for.
    assert_ne!(Ask::new(packet::OPEN).path(&at("a")).number(flags).number(0).status(&mut s), packet::OK);
    std::fs::write(at("b"), "b").unwrap();
    assert_ne!(Ask::new(packet::RENAME).path(&at("a")).path(&at("b")).status(&mut s), packet::OK);
    let posix = Ask::new(packet::EXTENDED).text("posix-rename@openssh.com");
    assert_eq!(posix.path(&at("a")).path(&at("b")).status(&mut s), packet::OK);
    assert_eq!(Ask::new(packet::SETSTAT).path(&at("b")).number(5).long(2).number(0o600).status(&mut s), packet::OK);
    let meta = std::fs::metadata(at("b")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (2, 0o600));
    assert_eq!(Ask::new(packet::SYMLINK).text("b").path(&at("l")).status(&mut s), packet::OK);
    assert_eq!(Ask::new(packet::READLINK).path(&at("l")).names(&mut s), ["b"]);
    assert_eq!(Ask::new(packet::REALPATH).path(&at("./x/../l")).status(&mut s), 2);
    assert_eq!(Ask::new(packet::REALPATH).path(&at("l")).names(&mut s), [at("b").to_str().unwrap()]);
    assert_eq!(Ask::new(packet::REALPATH).path(&at("new")).names(&mut s), [at("new").to_str().unwrap()]);
    // Many names come in pieces.
    assert_eq!(Ask::new(packet::MKDIR).path(&at("d")).number(0).status(&mut s), packet::OK);
    for n in 0..150 {
        std::fs::write(at("d").join(format!("{n}")), "").unwrap();
    }
    let listing = Ask::new(packet::OPENDIR).path(&at("d")).handle(&mut s);
    let mut names = Vec::new();
    for _ in 0..3 {
        names.extend(Ask::new(packet::READDIR).text(&listing).names(&mut s));
    }
    assert_eq!(Ask::new(packet::READDIR).text(&listing).status(&mut s), packet::EOF);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 152);
    assert_ne!(Ask::new(packet::RMDIR).path(&at("d")).status(&mut s), packet::OK);
    assert_eq!(Ask::new(packet::REMOVE).path(&at("b")).status(&mut s), packet::OK);
    assert_eq!(Ask::new(packet::STAT).path(&at("l")).status(&mut s), 2);
    assert_eq!(Ask::new(packet::LSTAT).path(&at("l")).of(&mut s).0, packet::ATTRS);
    assert_eq!(Ask::new(packet::EXTENDED).text("limits@openssh.com").of(&mut s).0, packet::EXTENDED_REPLY);
    assert_eq!(Ask::new(packet::EXTENDED).text("nosuch").status(&mut s), packet::UNSUPPORTED);
}

#[test]
fn rubbish_is_answered_or_ends_it() {
    let mut s = Server::default();
    for kind in 0..=255 {
        if kind != packet::INIT {
            assert!(s.answer(&[&[kind][..], &[0; 4]].concat()).is_ok(), "{kind}");
            assert!(s.answer(&[&[kind][..], &[0xff; 40]].concat()).is_ok(), "{kind}");
        }
    }
    for bytes in [&[0, 0, 0, 0][..], &[0xff; 4], &[0, 0, 0, 9, 1]] {
        assert!(serve(&mut &bytes[..], &mut Vec::new()).is_err(), "{bytes:?}");
    }
    let mut said = Vec::new();
    serve(&mut &[0, 0, 0, 5, packet::INIT, 0, 0, 0, 3][..], &mut said).unwrap();
    assert_eq!(said[4..9], [packet::VERSION, 0, 0, 0, 3]);
    assert!(s.handles.is_empty());
}
