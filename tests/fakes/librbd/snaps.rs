//! Snapshots of images in the [`World`].

use crate::{
    errno::{BUSY, EXIST, INVAL},
    world::{Answer, At, Snap, World},
};

impl World {
    pub(crate) fn snap_create(&mut self, at: &At, name: &str) -> Answer {
        let id = self.number();
        let image = self.image_mut(at)?;
        if image.snap(name).is_ok() {
            return Err(EXIST);
        }
        image.snaps.push(Snap {
            id,
            name: name.to_owned(),
            size: image.size,
            protected: false,
            trashed: false,
            objects: image.objects.clone(),
            parent: image.parent.clone(),
        });
        Ok(())
    }

    pub(crate) fn snap_remove(&mut self, at: &At, name: &str) -> Answer {
        let snap = self.image(at)?.snap(name)?;
        if snap.protected {
            return Err(BUSY);
        }
        let (id, parent) = (snap.id, snap.parent.clone());
        let kept = !self.children(&At { snap: Some(id), ..at.clone() }).is_empty();
        let image = self.image_mut(at)?;
        if kept {
            image.snap_mut(name)?.trashed = true;
            return Ok(());
        }
        image.snaps.retain(|snap| snap.id != id);
        self.orphan(parent);
        Ok(())
    }

    pub(crate) fn snap_protect(&mut self, at: &At, name: &str) -> Answer {
        let snap = self.image_mut(at)?.snap_mut(name)?;
        if std::mem::replace(&mut snap.protected, true) { Err(BUSY) } else { Ok(()) }
    }

    pub(crate) fn snap_unprotect(&mut self, at: &At, name: &str) -> Answer {
        let snap = self.image(at)?.snap(name)?;
        if !snap.protected {
            return Err(INVAL);
        }
        let clones = self.children(&At { snap: Some(snap.id), ..at.clone() });
        if clones.iter().any(|clone| clone.format == 1) {
            return Err(BUSY);
        }
        self.image_mut(at)?.snap_mut(name)?.protected = false;
        Ok(())
    }

    pub(crate) fn is_protected(&self, at: &At, name: &str) -> Answer<bool> {
        Ok(self.image(at)?.snap(name)?.protected)
    }
}
