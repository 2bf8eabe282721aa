//! Reads the segments of an initramfs and the entries in them.

use super::archive::{Archive, NOT_ONE, Segment};
use super::contents::{Contents, Want};
use super::cpio::Entry;
use super::detect::{Located, Locator};
use super::walk::{Bounds, Content, EntryPosition, measure, unpack};
use crate::common::error::{Error, Result};
use crate::common::parallel;

impl Archive {
    /// The segments. What is compressed is unpacked only where its header does not say to how much,
    /// and what is in it is not looked at.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        let bounds = Bounds::default();
        let done = self.each(|located, index| {
            let known = located.size.zip(located.unpacked);
            let segment = match known {
                Some((size, unpacked)) => {
                    let Located { offset, compression, .. } = *located;
                    Segment { offset, size, compression, unpacked }
                }
                None => measure(self, located, index, &bounds)?,
            };
            Ok((segment, ()))
        })?;
        Ok(done.into_iter().map(|(segment, ())| segment).collect())
    }

    /// Calls `visit` for every entry of every segment, in order, with its content.
    pub fn walk(
        &self,
        mut visit: impl FnMut(EntryPosition, &Entry, &mut Content) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        let bounds = Bounds::default();
        let mut locator = Locator::new(self);
        let mut segments = Vec::new();
        while let Some(located) = locator.next_segment()? {
            let segment = unpack(self, &located, segments.len(), &bounds, &mut visit)?;
            locator.position = segment.offset + segment.size;
            segments.push(segment);
        }
        self.some(segments)
    }

    /// Reads all entries, with the requested content. Segments with known ends are unpacked in
    /// parallel.
    pub fn read(&self, want: &Want) -> Result<Contents> {
        let bounds = Bounds::default();
        let done = self.each(|located, index| {
            let mut items = Vec::new();
            let mut visit = |place: EntryPosition, entry: &Entry, content: &mut Content| {
                items.push(want.item(place, entry, content, &bounds)?);
                Ok(())
            };
            let segment = unpack(self, located, index, &bounds, &mut visit)?;
            Ok((segment, items))
        })?;
        let (segments, items): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        let items = items.into_iter().flatten().collect();
        Ok(Contents { segments, items, boot_config: self.boot_config })
    }

    /// Calls `work` for each segment. Segments whose end is known before unpacking are processed in
    /// parallel.
    fn each<T: Send>(
        &self,
        work: impl Fn(&Located, usize) -> Result<(Segment, T)> + Sync,
    ) -> Result<Vec<(Segment, T)>> {
        let mut results = Vec::new();
        let mut locator = Locator::new(self);
        let mut known = Vec::new();
        let mut count = 0;
        // Segments before a fault are processed first, because a fault in them is reported instead.
        let mut fault = None;
        loop {
            let located = match locator.next_segment() {
                Ok(Some(located)) => located,
                Ok(None) => break,
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            };
            let index = count;
            count += 1;
            if let Some(size) = located.size {
                locator.position = located.offset + size;
                known.push((index, located));
                continue;
            }
            let result = work(&located, index);
            let end = result.as_ref().map(|(segment, _)| segment.offset + segment.size);
            let end = end.map_err(|_| ());
            results.push((index, result));
            match end {
                Ok(end) => locator.position = end,
                Err(()) => break,
            }
        }
        // An error in an earlier segment is reported first, so no error ends this loop.
        let finish = |(index, located): &(usize, Located)| Ok((*index, work(located, *index)));
        results.extend(parallel::map(&known, parallel::processors(), finish)?);
        results.sort_by_key(|(index, _)| *index);
        let done: Vec<_> = results.into_iter().map(|(_, result)| result).collect::<Result<_>>()?;
        fault.map_or_else(|| self.some(done), Err)
    }

    fn some<T>(&self, segments: Vec<T>) -> Result<Vec<T>> {
        if !segments.is_empty() {
            return Ok(segments);
        }
        let message =
            format!("{}: expected an initramfs, found {} zero bytes", self.path.display(), self.size());
        Err(Error::new(message).hint(NOT_ONE))
    }
}
